"""Well-known medicines: name, molecular formula, class, one use, structure.

The formula is written down independently of the SMILES, so that a test can check each against the other. SMILES are
without stereochemistry. `is used ...` completes the sentence of the use.
"""

from __future__ import annotations

DRUGS = """
aspirin|C9H8O4|nonsteroidal anti-inflammatory drug|to relieve pain and fever|CC(=O)Oc1ccccc1C(=O)O
salicylic acid|C7H6O3|keratolytic|on the skin to treat warts|OC(=O)c1ccccc1O
ibuprofen|C13H18O2|nonsteroidal anti-inflammatory drug|to relieve pain and inflammation|CC(C)Cc1ccc(cc1)C(C)C(=O)O
naproxen|C14H14O3|nonsteroidal anti-inflammatory drug|to treat pain in arthritis|COc1ccc2cc(ccc2c1)C(C)C(=O)O
ketoprofen|C16H14O3|nonsteroidal anti-inflammatory drug|to treat pain in arthritis|CC(C(=O)O)c1cccc(c1)C(=O)c1ccccc1
diclofenac|C14H11Cl2NO2|nonsteroidal anti-inflammatory drug|to relieve pain and inflammation|\
OC(=O)Cc1ccccc1Nc1c(Cl)cccc1Cl
indomethacin|C19H16ClNO4|nonsteroidal anti-inflammatory drug|to treat acute gout|\
COc1ccc2c(c1)c(CC(=O)O)c(C)n2C(=O)c1ccc(Cl)cc1
celecoxib|C17H14F3N3O2S|selective cyclooxygenase-2 inhibitor|to treat osteoarthritis|\
Cc1ccc(cc1)-c1cc(nn1-c1ccc(cc1)S(N)(=O)=O)C(F)(F)F
paracetamol|C8H9NO2|analgesic|to relieve mild pain and fever|CC(=O)Nc1ccc(O)cc1
caffeine|C8H10N4O2|methylxanthine stimulant|to treat apnoea of prematurity|Cn1cnc2c1c(=O)n(C)c(=O)n2C
theophylline|C7H8N4O2|methylxanthine bronchodilator|to treat asthma|Cn1c(=O)c2[nH]cnc2n(C)c1=O
morphine|C17H19NO3|opioid analgesic|to relieve severe pain|CN1CCC23C4Oc5c2c(CC1C3C=CC4O)ccc5O
codeine|C18H21NO3|opioid analgesic|to relieve moderate pain|CN1CCC23C4Oc5c2c(CC1C3C=CC4O)ccc5OC
naloxone|C19H21NO4|opioid antagonist|to reverse opioid overdose|C=CCN1CCC23C4Oc5c2c(CC1C3(O)CCC4=O)ccc5O
fentanyl|C22H28N2O|synthetic opioid analgesic|to relieve severe pain|CCC(=O)N(c1ccccc1)C1CCN(CCc2ccccc2)CC1
methadone|C21H27NO|synthetic opioid|to treat opioid dependence|CCC(=O)C(CC(C)N(C)C)(c1ccccc1)c1ccccc1
tramadol|C16H25NO2|opioid analgesic|to relieve moderate pain|COc1cccc(c1)C1(O)CCCCC1CN(C)C
lidocaine|C14H22N2O|amide local anaesthetic|to numb tissue before small operations|CCN(CC)CC(=O)Nc1c(C)cccc1C
procaine|C13H20N2O2|ester local anaesthetic|to numb tissue before dental work|CCN(CC)CCOC(=O)c1ccc(N)cc1
benzocaine|C9H11NO2|ester local anaesthetic|on the skin to relieve pain|CCOC(=O)c1ccc(N)cc1
propofol|C12H18O|intravenous anaesthetic|to induce general anaesthesia|CC(C)c1cccc(C(C)C)c1O
ketamine|C13H16ClNO|dissociative anaesthetic|to induce anaesthesia|CNC1(CCCCC1=O)c1ccccc1Cl
diazepam|C16H13ClN2O|benzodiazepine|to treat anxiety and seizures|CN1C(=O)CN=C(c2ccccc2)c2cc(Cl)ccc12
lorazepam|C15H10Cl2N2O2|benzodiazepine|to treat status epilepticus|OC1N=C(c2ccccc2Cl)c2cc(Cl)ccc2NC1=O
midazolam|C18H13ClFN3|benzodiazepine|to sedate patients before procedures|Cc1ncc2n1-c1ccc(Cl)cc1C(=NC2)c1ccccc1F
phenobarbital|C12H12N2O3|barbiturate|to treat epilepsy|CCC1(C(=O)NC(=O)NC1=O)c1ccccc1
phenytoin|C15H12N2O2|anticonvulsant|to treat tonic-clonic seizures|O=C1NC(=O)C(N1)(c1ccccc1)c1ccccc1
carbamazepine|C15H12N2O|anticonvulsant|to treat epilepsy and trigeminal neuralgia|NC(=O)N1c2ccccc2C=Cc2ccccc12
valproic acid|C8H16O2|anticonvulsant|to treat epilepsy and bipolar disorder|CCCC(CCC)C(=O)O
lamotrigine|C9H7Cl2N5|anticonvulsant|to treat epilepsy and bipolar disorder|Nc1nnc(c(N)n1)-c1cccc(Cl)c1Cl
levetiracetam|C8H14N2O2|anticonvulsant|to treat epilepsy|CCC(C(N)=O)N1CCCC1=O
gabapentin|C9H17NO2|anticonvulsant|to treat neuropathic pain|NCC1(CC(=O)O)CCCCC1
fluoxetine|C17H18F3NO|selective serotonin reuptake inhibitor|to treat depression|\
CNCCC(Oc1ccc(cc1)C(F)(F)F)c1ccccc1
sertraline|C17H17Cl2N|selective serotonin reuptake inhibitor|to treat depression|CNC1CCC(c2ccc(Cl)c(Cl)c2)c2ccccc12
citalopram|C20H21FN2O|selective serotonin reuptake inhibitor|to treat depression|\
CN(C)CCCC1(OCc2cc(ccc12)C#N)c1ccc(F)cc1
amitriptyline|C20H23N|tricyclic antidepressant|to treat depression and neuropathic pain|CN(C)CCC=C1c2ccccc2CCc2ccccc12
imipramine|C19H24N2|tricyclic antidepressant|to treat depression|CN(C)CCCN1c2ccccc2CCc2ccccc12
bupropion|C13H18ClNO|aminoketone antidepressant|to help people to stop smoking|CC(NC(C)(C)C)C(=O)c1cccc(Cl)c1
venlafaxine|C17H27NO2|serotonin and noradrenaline reuptake inhibitor|to treat depression|\
COc1ccc(cc1)C(CN(C)C)C1(O)CCCCC1
chlorpromazine|C17H19ClN2S|phenothiazine antipsychotic|to treat schizophrenia|CN(C)CCCN1c2ccccc2Sc2ccc(Cl)cc12
haloperidol|C21H23ClFNO2|butyrophenone antipsychotic|to treat schizophrenia|OC1(CCN(CCCC(=O)c2ccc(F)cc2)CC1)c1ccc(Cl)cc1
clozapine|C18H19ClN4|atypical antipsychotic|to treat resistant schizophrenia|CN1CCN(CC1)C1=Nc2cc(Cl)ccc2Nc2ccccc12
levodopa|C9H11NO4|dopamine precursor|to treat Parkinson disease|NC(Cc1ccc(O)c(O)c1)C(=O)O
carbidopa|C10H14N2O4|aromatic amino acid decarboxylase inhibitor|with levodopa to treat Parkinson disease|\
CC(Cc1ccc(O)c(O)c1)(NN)C(=O)O
selegiline|C13H17N|monoamine oxidase B inhibitor|to treat Parkinson disease|CC(Cc1ccccc1)N(C)CC#C
amantadine|C10H17N|adamantane|to treat Parkinson disease|NC12CC3CC(CC(C3)C1)C2
memantine|C12H21N|NMDA receptor antagonist|to treat Alzheimer disease|CC12CC3CC(C)(C1)CC(N)(C3)C2
donepezil|C24H29NO3|acetylcholinesterase inhibitor|to treat Alzheimer disease|\
COc1cc2CC(CC3CCN(Cc4ccccc4)CC3)C(=O)c2cc1OC
methylphenidate|C14H19NO2|central nervous system stimulant|to treat attention deficit hyperactivity disorder|\
COC(=O)C(C1CCCCN1)c1ccccc1
atropine|C17H23NO3|muscarinic antagonist|to treat slow heart rate|CN1C2CCC1CC(C2)OC(=O)C(CO)c1ccccc1
neostigmine|C12H19N2O2+|acetylcholinesterase inhibitor|to treat myasthenia gravis|CN(C)C(=O)Oc1cccc(c1)[N+](C)(C)C
propranolol|C16H21NO2|beta blocker|to treat high blood pressure|CC(C)NCC(O)COc1cccc2ccccc12
atenolol|C14H22N2O3|beta blocker|to treat high blood pressure|CC(C)NCC(O)COc1ccc(CC(N)=O)cc1
metoprolol|C15H25NO3|beta blocker|to treat angina|COCCc1ccc(OCC(O)CNC(C)C)cc1
salbutamol|C13H21NO3|beta-2 agonist|to treat asthma|CC(C)(C)NCC(O)c1ccc(O)c(CO)c1
captopril|C9H15NO3S|angiotensin-converting enzyme inhibitor|to treat high blood pressure|CC(CS)C(=O)N1CCCC1C(=O)O
enalapril|C20H28N2O5|angiotensin-converting enzyme inhibitor|to treat high blood pressure|\
CCOC(=O)C(CCc1ccccc1)NC(C)C(=O)N1CCCC1C(=O)O
lisinopril|C21H31N3O5|angiotensin-converting enzyme inhibitor|to treat heart failure|\
NCCCCC(NC(CCc1ccccc1)C(=O)O)C(=O)N1CCCC1C(=O)O
losartan|C22H23ClN6O|angiotensin II receptor blocker|to treat high blood pressure|\
CCCCc1nc(Cl)c(CO)n1Cc1ccc(cc1)-c1ccccc1-c1nn[nH]n1
nifedipine|C17H18N2O6|calcium channel blocker|to treat high blood pressure|\
COC(=O)C1=C(C)NC(C)=C(C1c1ccccc1[N+](=O)[O-])C(=O)OC
amlodipine|C20H25ClN2O5|calcium channel blocker|to treat high blood pressure|\
CCOC(=O)C1=C(COCCN)NC(C)=C(C1c1ccccc1Cl)C(=O)OC
verapamil|C27H38N2O4|calcium channel blocker|to treat supraventricular tachycardia|\
COc1ccc(CCN(C)CCCC(C#N)(C(C)C)c2ccc(OC)c(OC)c2)cc1OC
hydrochlorothiazide|C7H8ClN3O4S2|thiazide diuretic|to treat high blood pressure|NS(=O)(=O)c1cc2c(cc1Cl)NCNS2(=O)=O
furosemide|C12H11ClN2O5S|loop diuretic|to treat oedema|NS(=O)(=O)c1cc(C(=O)O)c(NCc2ccco2)cc1Cl
acetazolamide|C4H6N4O3S2|carbonic anhydrase inhibitor|to treat glaucoma|CC(=O)Nc1nnc(s1)S(N)(=O)=O
spironolactone|C24H32O4S|mineralocorticoid receptor antagonist|to treat heart failure|\
CC(=O)SC1CC2=CC(=O)CCC2(C)C2CCC3(C)C(CCC43CCC(=O)O4)C12
warfarin|C19H16O4|vitamin K antagonist|to prevent blood clots|CC(=O)CC(c1ccccc1)C1=C(O)c2ccccc2OC1=O
clopidogrel|C16H16ClNO2S|platelet P2Y12 inhibitor|to prevent stroke and heart attack|\
COC(=O)C(c1ccccc1Cl)N1CCc2sccc2C1
lovastatin|C24H36O5|statin|to lower cholesterol|CCC(C)C(=O)OC1CC(C)C=C2C=CC(C)C(CCC3CC(O)CC(=O)O3)C12
simvastatin|C25H38O5|statin|to lower cholesterol|CCC(C)(C)C(=O)OC1CC(C)C=C2C=CC(C)C(CCC3CC(O)CC(=O)O3)C12
atorvastatin|C33H35FN2O5|statin|to lower cholesterol|\
CC(C)c1c(C(=O)Nc2ccccc2)c(-c2ccccc2)c(-c2ccc(F)cc2)n1CCC(O)CC(O)CC(=O)O
fenofibrate|C20H21ClO4|fibrate|to lower triglycerides|CC(C)OC(=O)C(C)(C)Oc1ccc(cc1)C(=O)c1ccc(Cl)cc1
nitroglycerin|C3H5N3O9|nitrate vasodilator|to relieve angina|O=[N+]([O-])OCC(CO[N+](=O)[O-])O[N+](=O)[O-]
metformin|C4H11N5|biguanide|to treat type 2 diabetes|CN(C)C(=N)NC(N)=N
glibenclamide|C23H28ClN3O5S|sulfonylurea|to treat type 2 diabetes|\
COc1ccc(Cl)cc1C(=O)NCCc1ccc(cc1)S(=O)(=O)NC(=O)NC1CCCCC1
tolbutamide|C12H18N2O3S|sulfonylurea|to treat type 2 diabetes|CCCCNC(=O)NS(=O)(=O)c1ccc(C)cc1
pioglitazone|C19H20N2O3S|thiazolidinedione|to treat type 2 diabetes|CCc1ccc(CCOc2ccc(CC3SC(=O)NC3=O)cc2)nc1
omeprazole|C17H19N3O3S|proton pump inhibitor|to treat peptic ulcer|COc1ccc2[nH]c(nc2c1)S(=O)Cc1ncc(C)c(OC)c1C
cimetidine|C10H16N6S|histamine H2 receptor antagonist|to treat peptic ulcer|CNC(=NCCSCc1[nH]cnc1C)NC#N
loratadine|C22H23ClN2O2|histamine H1 receptor antagonist|to treat hay fever|\
CCOC(=O)N1CCC(=C2c3ccc(Cl)cc3CCc3cccnc23)CC1
diphenhydramine|C17H21NO|histamine H1 receptor antagonist|to treat allergy|CN(C)CCOC(c1ccccc1)c1ccccc1
cetirizine|C21H25ClN2O3|histamine H1 receptor antagonist|to treat hay fever|OC(=O)COCCN1CCN(CC1)C(c1ccccc1)c1ccc(Cl)cc1
ondansetron|C18H19N3O|serotonin 5-HT3 receptor antagonist|to prevent nausea|Cc1nccn1CC1CCc2c(C1=O)c1ccccc1n2C
sildenafil|C22H30N6O4S|phosphodiesterase 5 inhibitor|to treat erectile dysfunction|\
CCCc1nn(C)c2c1nc([nH]c2=O)-c1cc(ccc1OCC)S(=O)(=O)N1CCN(C)CC1
allopurinol|C5H4N4O|xanthine oxidase inhibitor|to prevent gout|O=c1[nH]cnc2[nH]ncc12
colchicine|C22H25NO6|tubulin binder|to treat acute gout|COc1cc2CCC(NC(C)=O)c3cc(=O)c(OC)ccc3-c2c(OC)c1OC
benzylpenicillin|C16H18N2O4S|beta-lactam antibiotic|to treat syphilis|CC1(C)SC2C(NC(=O)Cc3ccccc3)C(=O)N2C1C(=O)O
ampicillin|C16H19N3O4S|beta-lactam antibiotic|to treat bacterial meningitis|\
CC1(C)SC2C(NC(=O)C(N)c3ccccc3)C(=O)N2C1C(=O)O
amoxicillin|C16H19N3O5S|beta-lactam antibiotic|to treat middle ear infection|\
CC1(C)SC2C(NC(=O)C(N)c3ccc(O)cc3)C(=O)N2C1C(=O)O
cefalexin|C16H17N3O4S|cephalosporin antibiotic|to treat skin infections|CC1=C(N2C(SC1)C(NC(=O)C(N)c1ccccc1)C2=O)C(=O)O
ciprofloxacin|C17H18FN3O3|fluoroquinolone antibiotic|to treat urinary tract infections|\
OC(=O)c1cn(C2CC2)c2cc(N3CCNCC3)c(F)cc2c1=O
levofloxacin|C18H20FN3O4|fluoroquinolone antibiotic|to treat pneumonia|CC1COc2c(N3CCN(C)CC3)c(F)cc3c2n1cc(C(=O)O)c3=O
nalidixic acid|C12H12N2O3|quinolone antibiotic|to treat urinary tract infections|CCn1cc(C(=O)O)c(=O)c2ccc(C)nc12
tetracycline|C22H24N2O8|tetracycline antibiotic|to treat acne|\
CN(C)C1C2CC3C(=C(O)c4c(O)cccc4C3(C)O)C(=O)C2(O)C(O)=C(C(N)=O)C1=O
chloramphenicol|C11H12Cl2N2O5|amphenicol antibiotic|to treat bacterial conjunctivitis|\
OCC(NC(=O)C(Cl)Cl)C(O)c1ccc(cc1)[N+](=O)[O-]
sulfamethoxazole|C10H11N3O3S|sulfonamide antibiotic|to treat urinary tract infections|Cc1cc(NS(=O)(=O)c2ccc(N)cc2)no1
trimethoprim|C14H18N4O3|dihydrofolate reductase inhibitor|to treat urinary tract infections|\
COc1cc(Cc2cnc(N)nc2N)cc(OC)c1OC
dapsone|C12H12N2O2S|sulfone antibiotic|to treat leprosy|Nc1ccc(cc1)S(=O)(=O)c1ccc(N)cc1
isoniazid|C6H7N3O|antituberculosis drug|to treat tuberculosis|NNC(=O)c1ccncc1
pyrazinamide|C5H5N3O|antituberculosis drug|to treat tuberculosis|NC(=O)c1cnccn1
ethambutol|C10H24N2O2|antituberculosis drug|to treat tuberculosis|CCC(CO)NCCNC(CC)CO
metronidazole|C6H9N3O3|nitroimidazole antibiotic|to treat anaerobic infections|Cc1ncc([N+](=O)[O-])n1CCO
nitrofurantoin|C8H6N4O5|nitrofuran antibiotic|to treat urinary tract infections|O=C1CN(N=Cc2ccc(o2)[N+](=O)[O-])C(=O)N1
linezolid|C16H20FN3O4|oxazolidinone antibiotic|to treat resistant Gram-positive infections|\
CC(=O)NCC1CN(C(=O)O1)c1ccc(N2CCOCC2)c(F)c1
fluconazole|C13H12F2N6O|triazole antifungal|to treat candidiasis|OC(Cn1cncn1)(Cn1cncn1)c1ccc(F)cc1F
clotrimazole|C22H17ClN2|imidazole antifungal|to treat athlete's foot|Clc1ccccc1C(c1ccccc1)(c1ccccc1)n1ccnc1
terbinafine|C21H25N|allylamine antifungal|to treat fungal nail infection|CN(CC=CC#CC(C)(C)C)Cc1cccc2ccccc12
griseofulvin|C17H17ClO6|antifungal|to treat ringworm|COC1=CC(=O)CC(C)C12Oc1c(Cl)c(OC)cc(OC)c1C2=O
flucytosine|C4H4FN3O|pyrimidine antifungal|to treat cryptococcal meningitis|Nc1[nH]c(=O)ncc1F
chloroquine|C18H26ClN3|antimalarial|to treat malaria|CCN(CC)CCCC(C)Nc1ccnc2cc(Cl)ccc12
quinine|C20H24N2O2|antimalarial|to treat malaria|COc1ccc2nccc(C(O)C3CC4CCN3CC4C=C)c2c1
primaquine|C15H21N3O|antimalarial|to prevent relapse of vivax malaria|COc1cc(NC(C)CCCN)c2ncccc2c1
pyrimethamine|C12H13ClN4|dihydrofolate reductase inhibitor|to treat toxoplasmosis|CCc1nc(N)nc(N)c1-c1ccc(Cl)cc1
artemisinin|C15H22O5|antimalarial|in combinations to treat malaria|CC1CCC2C(C)C(=O)OC3OC4(C)CCC1C23OO4
albendazole|C12H15N3O2S|anthelmintic|to treat roundworm infection|CCCSc1ccc2[nH]c(NC(=O)OC)nc2c1
mebendazole|C16H13N3O3|anthelmintic|to treat pinworm infection|COC(=O)Nc1nc2cc(ccc2[nH]1)C(=O)c1ccccc1
praziquantel|C19H24N2O2|anthelmintic|to treat schistosomiasis|O=C(C1CCCCC1)N1CC2N(CCc3ccccc23)C(=O)C1
aciclovir|C8H11N5O3|nucleoside antiviral|to treat herpes simplex|Nc1nc2n(COCCO)cnc2c(=O)[nH]1
ganciclovir|C9H13N5O4|nucleoside antiviral|to treat cytomegalovirus infection|Nc1nc2n(COC(CO)CO)cnc2c(=O)[nH]1
zidovudine|C10H13N5O4|nucleoside reverse transcriptase inhibitor|to treat HIV infection|\
Cc1cn(C2CC(N=[N+]=[N-])C(CO)O2)c(=O)[nH]c1=O
lamivudine|C8H11N3O3S|nucleoside reverse transcriptase inhibitor|to treat HIV infection|Nc1ccn(C2CSC(CO)O2)c(=O)n1
nevirapine|C15H14N4O|non-nucleoside reverse transcriptase inhibitor|to treat HIV infection|\
Cc1ccnc2N(C3CC3)c3ncccc3C(=O)Nc12
ribavirin|C8H12N4O5|nucleoside antiviral|with interferon to treat hepatitis C|NC(=O)c1ncn(n1)C1OC(CO)C(O)C1O
oseltamivir|C16H28N2O4|neuraminidase inhibitor|to treat influenza|CCOC(=O)C1=CC(OC(CC)CC)C(NC(C)=O)C(N)C1
favipiravir|C5H4FN3O2|RNA polymerase inhibitor|to treat influenza|NC(=O)c1nc(F)c[nH]c1=O
methotrexate|C20H22N8O5|dihydrofolate reductase inhibitor|to treat leukaemia and rheumatoid arthritis|\
CN(Cc1cnc2nc(N)nc(N)c2n1)c1ccc(cc1)C(=O)NC(CCC(=O)O)C(=O)O
fluorouracil|C4H3FN2O2|pyrimidine antimetabolite|to treat colorectal cancer|O=c1[nH]cc(F)c(=O)[nH]1
mercaptopurine|C5H4N4S|purine antimetabolite|to treat acute lymphoblastic leukaemia|S=c1[nH]cnc2nc[nH]c12
cytarabine|C9H13N3O5|pyrimidine antimetabolite|to treat acute myeloid leukaemia|Nc1ccn(C2OC(CO)C(O)C2O)c(=O)n1
gemcitabine|C9H11F2N3O4|pyrimidine antimetabolite|to treat pancreatic cancer|Nc1ccn(C2OC(CO)C(O)C2(F)F)c(=O)n1
cyclophosphamide|C7H15Cl2N2O2P|alkylating agent|to treat lymphoma|ClCCN(CCCl)P1(=O)NCCCO1
chlorambucil|C14H19Cl2NO2|alkylating agent|to treat chronic lymphocytic leukaemia|OC(=O)CCCc1ccc(cc1)N(CCCl)CCCl
temozolomide|C6H6N6O2|alkylating agent|to treat glioblastoma|Cn1nnc2c(C(N)=O)ncn2c1=O
hydroxycarbamide|CH4N2O2|ribonucleotide reductase inhibitor|to treat sickle cell disease|NC(=O)NO
tamoxifen|C26H29NO|selective oestrogen receptor modulator|to treat breast cancer|\
CCC(=C(c1ccccc1)c1ccc(OCCN(C)C)cc1)c1ccccc1
anastrozole|C17H19N5|aromatase inhibitor|to treat breast cancer|CC(C)(C#N)c1cc(Cn2cncn2)cc(c1)C(C)(C)C#N
bicalutamide|C18H14F4N2O4S|androgen receptor antagonist|to treat prostate cancer|\
CC(O)(CS(=O)(=O)c1ccc(F)cc1)C(=O)Nc1ccc(C#N)c(c1)C(F)(F)F
imatinib|C29H31N7O|tyrosine kinase inhibitor|to treat chronic myeloid leukaemia|\
Cc1ccc(NC(=O)c2ccc(CN3CCN(C)CC3)cc2)cc1Nc1nccc(n1)-c1cccnc1
gefitinib|C22H24ClFN4O3|tyrosine kinase inhibitor|to treat non-small cell lung cancer|\
COc1cc2ncnc(Nc3ccc(F)c(Cl)c3)c2cc1OCCCN1CCOCC1
erlotinib|C22H23N3O4|tyrosine kinase inhibitor|to treat non-small cell lung cancer|\
COCCOc1cc2ncnc(Nc3cccc(c3)C#C)c2cc1OCCOC
sorafenib|C21H16ClF3N4O3|kinase inhibitor|to treat hepatocellular carcinoma|\
CNC(=O)c1cc(Oc2ccc(NC(=O)Nc3ccc(Cl)c(c3)C(F)(F)F)cc2)ccn1
thalidomide|C13H10N2O4|immunomodulator|to treat multiple myeloma|O=C1CCC(N2C(=O)c3ccccc3C2=O)C(=O)N1
azathioprine|C9H7N7O2S|purine antimetabolite|to prevent rejection of transplants|Cn1cnc(c1Sc1ncnc2nc[nH]c12)[N+](=O)[O-]
leflunomide|C12H9F3N2O2|dihydroorotate dehydrogenase inhibitor|to treat rheumatoid arthritis|\
Cc1oncc1C(=O)Nc1ccc(cc1)C(F)(F)F
dexamethasone|C22H29FO5|glucocorticoid|to treat inflammation|CC1CC2C3CCC4=CC(=O)C=CC4(C)C3(F)C(O)CC2(C)C1(O)C(=O)CO
prednisolone|C21H28O5|glucocorticoid|to treat inflammation|CC12CC(O)C3C(CCC4=CC(=O)C=CC34C)C1CCC2(O)C(=O)CO
levonorgestrel|C21H28O2|progestogen|in emergency contraception|CCC12CCC3C(CCC4=CC(=O)CCC34)C1CCC2(O)C#C
ethinylestradiol|C20H24O2|oestrogen|in oral contraceptives|CC12CCC3c4ccc(O)cc4CCC3C1CCC2(O)C#C
propylthiouracil|C7H10N2OS|thioamide|to treat hyperthyroidism|CCCc1cc(=O)[nH]c(=S)[nH]1
thiamazole|C4H6N2S|thioamide|to treat hyperthyroidism|Cn1cc[nH]c1=S
disulfiram|C10H20N2S4|aldehyde dehydrogenase inhibitor|to treat alcohol dependence|CCN(CC)C(=S)SSC(=S)N(CC)CC
acetylcysteine|C5H9NO3S|antidote|to treat paracetamol overdose|CC(=O)NC(CS)C(=O)O
penicillamine|C5H11NO2S|chelating agent|to treat Wilson disease|CC(C)(S)C(N)C(=O)O
mannitol|C6H14O6|osmotic diuretic|to lower raised intracranial pressure|OCC(O)C(O)C(O)C(O)CO
"""
