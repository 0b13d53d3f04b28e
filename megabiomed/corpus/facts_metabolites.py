"""Metabolites, vitamins, hormones, natural products: name, formula, class, what it does, structure without stereo.

`is ...` completes the sentence of what it does. Acids and bases are written in their neutral form.
"""

from __future__ import annotations

METABOLITES = """
D-glucose|C6H12O6|monosaccharide|the main fuel of glycolysis|OCC1OC(O)C(O)C(O)C1O
D-fructose|C6H12O6|monosaccharide|found in fruit and honey|OCC1(O)OCC(O)C(O)C1O
sucrose|C12H22O11|disaccharide|made of glucose and fructose|OCC1OC(OC2(CO)OC(CO)C(O)C2O)C(O)C(O)C1O
lactose|C12H22O11|disaccharide|the sugar of milk|OCC1OC(OC2C(CO)OC(O)C(O)C2O)C(O)C(O)C1O
pyruvic acid|C3H4O3|alpha-keto acid|the end product of glycolysis|CC(=O)C(=O)O
lactic acid|C3H6O3|hydroxy acid|made from pyruvate when oxygen is short|CC(O)C(=O)O
citric acid|C6H8O7|tricarboxylic acid|formed by citrate synthase in the citric acid cycle|OC(=O)CC(O)(CC(=O)O)C(=O)O
2-oxoglutaric acid|C5H6O5|dicarboxylic acid|an intermediate of the citric acid cycle|OC(=O)CCC(=O)C(=O)O
succinic acid|C4H6O4|dicarboxylic acid|oxidised to fumarate in the citric acid cycle|OC(=O)CCC(=O)O
fumaric acid|C4H4O4|dicarboxylic acid|hydrated to malate in the citric acid cycle|OC(=O)C=CC(=O)O
malic acid|C4H6O5|dicarboxylic acid|oxidised to oxaloacetate in the citric acid cycle|OC(=O)CC(O)C(=O)O
oxaloacetic acid|C4H4O5|dicarboxylic acid|joined with acetyl-CoA to form citrate|OC(=O)CC(=O)C(=O)O
acetoacetic acid|C4H6O3|ketone body|made in the liver during fasting|CC(=O)CC(=O)O
acetone|C3H6O|ketone|formed from acetoacetate during ketosis|CC(C)=O
ethanol|C2H6O|alcohol|oxidised by alcohol dehydrogenase|CCO
acetaldehyde|C2H4O|aldehyde|formed when ethanol is oxidised|CC=O
acetic acid|C2H4O2|carboxylic acid|formed when acetaldehyde is oxidised|CC(=O)O
urea|CH4N2O|diamide|the main nitrogen waste of mammals|NC(N)=O
creatine|C4H9N3O2|guanidino compound|stored as phosphocreatine in muscle|CN(CC(=O)O)C(N)=N
creatinine|C4H7N3O|lactam|used to estimate kidney function|CN1CC(=O)NC1=N
uric acid|C5H4N4O3|purine|the end product of purine breakdown in humans|O=c1[nH]c(=O)c2[nH]c(=O)[nH]c2[nH]1
xanthine|C5H4N4O2|purine|oxidised to uric acid|O=c1[nH]c(=O)c2nc[nH]c2[nH]1
hypoxanthine|C5H4N4O|purine|oxidised to xanthine|O=c1[nH]cnc2nc[nH]c12
adenine|C5H5N5|purine base|paired with thymine in DNA|Nc1ncnc2nc[nH]c12
guanine|C5H5N5O|purine base|paired with cytosine in DNA|Nc1nc2nc[nH]c2c(=O)[nH]1
cytosine|C4H5N3O|pyrimidine base|paired with guanine in DNA|Nc1cc[nH]c(=O)n1
thymine|C5H6N2O2|pyrimidine base|paired with adenine in DNA|Cc1c[nH]c(=O)[nH]c1=O
uracil|C4H4N2O2|pyrimidine base|paired with adenine in RNA|O=c1cc[nH]c(=O)[nH]1
adenosine|C10H13N5O4|purine nucleoside|made of adenine and ribose|Nc1ncnc2n(cnc12)C1OC(CO)C(O)C1O
adenosine triphosphate|C10H16N5O13P3|purine nucleotide|the energy currency of cells|\
Nc1ncnc2n(cnc12)C1OC(COP(=O)(O)OP(=O)(O)OP(=O)(O)O)C(O)C1O
dopamine|C8H11NO2|catecholamine|made from levodopa by decarboxylation|NCCc1ccc(O)c(O)c1
noradrenaline|C8H11NO3|catecholamine|released by sympathetic nerves|NCC(O)c1ccc(O)c(O)c1
adrenaline|C9H13NO3|catecholamine|released by the adrenal medulla|CNCC(O)c1ccc(O)c(O)c1
serotonin|C10H12N2O|monoamine|made from tryptophan|NCCc1c[nH]c2ccc(O)cc12
melatonin|C13H16N2O2|indole hormone|released by the pineal gland at night|COc1ccc2[nH]cc(CCNC(C)=O)c2c1
histamine|C5H9N3|biogenic amine|released by mast cells in allergy|NCCc1c[nH]cn1
4-aminobutanoic acid|C4H9NO2|amino acid|the main inhibitory transmitter of the brain|NCCCC(=O)O
acetylcholine|C7H16NO2+|quaternary ammonium ester|the transmitter of the neuromuscular junction|CC(=O)OCC[N+](C)(C)C
choline|C5H14NO+|quaternary ammonium alcohol|a part of phosphatidylcholine|C[N+](C)(C)CCO
taurine|C2H7NO3S|aminosulfonic acid|joined to bile acids in the liver|NCCS(=O)(=O)O
glutathione|C10H17N3O6S|tripeptide|made of glutamate, cysteine and glycine|NC(CCC(=O)NC(CS)C(=O)NCC(=O)O)C(=O)O
cholesterol|C27H46O|sterol|a part of animal cell membranes|CC(C)CCCC(C)C1CCC2C3CC=C4CC(O)CCC4(C)C3CCC12C
cortisol|C21H30O5|glucocorticoid|released by the adrenal cortex|CC12CCC(=O)C=C1CCC1C2C(O)CC2(C)C1CCC2(O)C(=O)CO
corticosterone|C21H30O4|glucocorticoid|the main glucocorticoid of rats and mice|\
CC12CCC(=O)C=C1CCC1C2C(O)CC2(C)C1CCC2C(=O)CO
progesterone|C21H30O2|steroid hormone|released by the corpus luteum|CC(=O)C1CCC2C3CCC4=CC(=O)CCC4(C)C3CCC12C
testosterone|C19H28O2|androgen|made by the Leydig cells of the testis|CC12CCC3C(CCC4=CC(=O)CCC34C)C1CCC2O
estradiol|C18H24O2|oestrogen|made from testosterone by aromatase|CC12CCC3c4ccc(O)cc4CCC3C1CCC2O
estrone|C18H22O2|oestrogen|made from androstenedione by aromatase|CC12CCC3c4ccc(O)cc4CCC3C1CCC2=O
thyroxine|C15H11I4NO4|thyroid hormone|converted to triiodothyronine in tissues|\
NC(Cc1cc(I)c(Oc2cc(I)c(O)c(I)c2)c(I)c1)C(=O)O
palmitic acid|C16H32O2|saturated fatty acid|the main product of fatty acid synthase|CCCCCCCCCCCCCCCC(=O)O
stearic acid|C18H36O2|saturated fatty acid|made by lengthening palmitic acid|CCCCCCCCCCCCCCCCCC(=O)O
oleic acid|C18H34O2|monounsaturated fatty acid|the main fatty acid of olive oil|CCCCCCCCC=CCCCCCCCC(=O)O
linoleic acid|C18H32O2|omega-6 fatty acid|essential in the human diet|CCCCCC=CCC=CCCCCCCCC(=O)O
arachidonic acid|C20H32O2|omega-6 fatty acid|the precursor of prostaglandins|CCCCCC=CCC=CCC=CCC=CCCCC(=O)O
glycerol|C3H8O3|polyol|the backbone of triglycerides|OCC(O)CO
ascorbic acid|C6H8O6|vitamin|needed to hydroxylate collagen|OCC(O)C1OC(=O)C(O)=C1O
retinol|C20H30O|vitamin|needed for vision|CC(C=CC=C(C)C=CC1=C(C)CCCC1(C)C)=CCO
thiamine|C12H17N4OS+|vitamin|needed by pyruvate dehydrogenase|Cc1ncc(C[n+]2csc(CCO)c2C)c(N)n1
riboflavin|C17H20N4O6|vitamin|the precursor of FAD|Cc1cc2nc3c(=O)[nH]c(=O)nc-3n(CC(O)C(O)C(O)CO)c2cc1C
nicotinic acid|C6H5NO2|vitamin|a precursor of NAD|OC(=O)c1cccnc1
nicotinamide|C6H6N2O|vitamin|a part of NAD|NC(=O)c1cccnc1
pantothenic acid|C9H17NO5|vitamin|a part of coenzyme A|CC(C)(CO)C(O)C(=O)NCCC(=O)O
pyridoxine|C8H11NO3|vitamin|converted to pyridoxal phosphate|Cc1ncc(CO)c(CO)c1O
biotin|C10H16N2O3S|vitamin|the cofactor of pyruvate carboxylase|OC(=O)CCCCC1SCC2NC(=O)NC12
folic acid|C19H19N7O6|vitamin|reduced to tetrahydrofolate|Nc1nc2ncc(CNc3ccc(cc3)C(=O)NC(CCC(=O)O)C(=O)O)nc2c(=O)[nH]1
cholecalciferol|C27H44O|vitamin|made in skin under ultraviolet light|CC(C)CCCC(C)C1CCC2C(=CC=C3CC(O)CCC3=C)CCCC12C
menadione|C11H8O2|naphthoquinone|a synthetic form of vitamin K|CC1=CC(=O)c2ccccc2C1=O
nicotine|C10H14N2|alkaloid|found in tobacco|CN1CCCC1c1cccnc1
glycine|C2H5NO2|amino acid|an inhibitory transmitter of the spinal cord|NCC(=O)O
glutamic acid|C5H9NO4|amino acid|the main excitatory transmitter of the brain|NC(CCC(=O)O)C(=O)O
camphor|C10H16O|terpenoid|found in the wood of the camphor tree|CC1(C)C2CCC1(C)C(=O)C2
menthol|C10H20O|terpenoid|found in mint|CC(C)C1CCC(C)CC1O
capsaicin|C18H27NO3|vanilloid|the pungent compound of chilli peppers|COc1cc(CNC(=O)CCCCC=CC(C)C)ccc1O
curcumin|C21H20O6|polyphenol|the yellow pigment of turmeric|COc1cc(C=CC(=O)CC(=O)C=Cc2ccc(O)c(OC)c2)ccc1O
resveratrol|C14H12O3|stilbenoid|found in the skin of red grapes|Oc1ccc(C=Cc2cc(O)cc(O)c2)cc1
quercetin|C15H10O7|flavonol|found in onions and apples|O=c1c(O)c(oc2cc(O)cc(O)c12)-c1ccc(O)c(O)c1
"""
